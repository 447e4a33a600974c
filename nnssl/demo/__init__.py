"""The demonstration: the whole road from unlabelled scans to a comparison, on a small cohort and without a network."""
