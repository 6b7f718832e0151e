"""One module an engine: how it is started, asked and read.  Nothing else here knows any."""
