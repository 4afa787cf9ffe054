"""A trained run in use: adapted to a new task, predicting, exported."""
