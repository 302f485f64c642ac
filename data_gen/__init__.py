"""Same-subject training data: sources make sets, sets go into shards. See `python -m data_gen --help`."""
