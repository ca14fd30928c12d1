"""Files of weights: read, translate, describe, fetch, and load into any network."""
