"""Any folder of scans becomes an nnU-Net data set: finding, judging, writing, reporting."""
