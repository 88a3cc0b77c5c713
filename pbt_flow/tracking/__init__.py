"""The population in MLflow. No other wing imports mlflow."""
