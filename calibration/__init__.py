"""Calibration sets, observers, range tables, Q/DQ placement and the precision search. Knows no torch."""
