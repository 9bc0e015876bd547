"""What all collections share: tables, values, studies, boxes, images, splits, report."""
