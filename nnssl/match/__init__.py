"""The same anatomy in two scans: matchers behind one interface, match tables, pictures of matches."""
