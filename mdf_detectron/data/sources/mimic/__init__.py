"""MIMIC-IV, MIMIC-IV-ED, MIMIC-CXR-JPG and REFLACX (or MIMIC-Eye) → a prepared folder."""
