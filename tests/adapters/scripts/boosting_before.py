"""Gradient boosting of trees with LightGBM, a few rounds at a time."""

import lightgbm
from sklearn.datasets import load_digits

PARAMS = {"objective": "multiclass", "num_class": 10, "bagging_freq": 1, "verbose": -1}


def load_tables():
    features, labels = load_digits(return_X_y=True)
    return (features[:1200], labels[:1200]), (features[1200:], labels[1200:])


def accuracy(labels, predictions):
    return (predictions.argmax(1) == labels).mean()


if __name__ == "__main__":
    (features, labels), validation = load_tables()
    model = lightgbm.train(PARAMS, lightgbm.Dataset(features, labels), num_boost_round=20)
    print(f"accuracy {accuracy(validation[1], model.predict(validation[0])):.3f}")
