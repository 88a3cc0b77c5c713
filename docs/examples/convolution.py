"""A small convolutional network in Keras, on torch, that classifies handwritten digits."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits

from pbt_flow.adapters.keras import ModelTask


def load_arrays():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def make_network():
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    layers += [keras.layers.Dropout(0.2), keras.layers.Dense(10)]
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


class Digits(ModelTask):
    space = {
        "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.6),
    }
    score, fit_settings = "accuracy", {"batch_size": 64}
    make_model, make_data = staticmethod(make_network), staticmethod(load_arrays)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    (images, labels), validation = load_arrays()
    model = make_network()
    model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
    print(f"accuracy {model.evaluate(*validation, verbose=0)[1]:.3f}")
