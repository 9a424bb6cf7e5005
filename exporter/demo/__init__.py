"""The whole way of three models, and its page."""
