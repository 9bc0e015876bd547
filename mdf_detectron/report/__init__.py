"""Tables, charts, images and HTML pages of results."""
