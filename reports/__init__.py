"""A drift check's result, as a table, a page, JSON, JUnit's XML and metrics."""
