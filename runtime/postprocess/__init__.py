"""From graph outputs to results in source-image coordinates, one file a kind."""
