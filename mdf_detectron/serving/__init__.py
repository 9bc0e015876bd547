"""Models at work elsewhere: a web page."""
