"""Gradient boosting of trees with LightGBM, a few rounds at a time."""

import lightgbm
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_digits

from pbt_flow.adapters.boosting import BoostingTask

PARAMS = {"objective": "multiclass", "num_class": 10, "bagging_freq": 1, "verbose": -1}


def load_tables():
    features, labels = load_digits(return_X_y=True)
    return (features[:1200], labels[:1200]), (features[1200:], labels[1200:])


def accuracy(labels, predictions):
    return (predictions.argmax(1) == labels).mean()


class Digits(BoostingTask):
    space = {
        "learning_rate": FloatDistribution(0.01, 0.5, log=True),
        "num_leaves": IntDistribution(4, 64, log=True),
        "bagging_fraction": FloatDistribution(0.4, 1.0),
        "lambda_l2": FloatDistribution(1e-3, 10.0, log=True),
    }
    params = PARAMS
    make_data, score_of = staticmethod(load_tables), staticmethod(accuracy)


if __name__ == "__main__":
    (features, labels), validation = load_tables()
    model = lightgbm.train(PARAMS, lightgbm.Dataset(features, labels), num_boost_round=20)
    print(f"accuracy {accuracy(validation[1], model.predict(validation[0])):.3f}")
