"""One room a kind of result; no kind imports another."""
