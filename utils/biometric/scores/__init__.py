"""What is made of scores: calibration and likelihood ratios, fusion, normalisation."""
