"""What the XGBoost and LightGBM trainers share: who trains on which rows, where ranks meet, and how a gang of them ends."""
