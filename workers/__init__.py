"""What runs on a rank: data, models, losses, training, evaluation. Never imports Ray."""
