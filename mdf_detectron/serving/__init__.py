"""Present findings on a web page and as DICOM structured reports."""
