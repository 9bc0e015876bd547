"""Your own data: images of any kind, boxes as COCO JSON or a table, and a table of clinical values."""
