"""Tools that all collections share: tables, values, studies, boxes, images, splits, report."""
