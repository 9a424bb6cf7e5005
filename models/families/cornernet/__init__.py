"""CornerNet (Law and Deng, 2018): things are pairs of corners, joined by their embeddings."""
