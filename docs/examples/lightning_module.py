"""A Lightning module that classifies handwritten digits."""

import lightning
import torch
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pbt_flow.adapters.lightning import ModuleTask


class Classifier(lightning.LightningModule):
    def __init__(self, learning_rate=1e-3, weight_decay=1e-4, dropout=0.2):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10)
        )

    def training_step(self, batch, batch_index):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_index):
        right = self.net(batch[0]).argmax(1) == batch[1]
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self):
        rate, decay = self.hparams.learning_rate, self.hparams.weight_decay
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=rate, weight_decay=decay)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)]


def make_loaders():
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    digits = TensorDataset(images.float() / 16, labels)
    training, validation = torch.utils.data.random_split(digits, [1200, 597])
    return DataLoader(training, 64, shuffle=True), DataLoader(validation, 597)


class Digits(ModuleTask):
    space = {
        "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.6),
    }
    score = "accuracy"
    make_module = Classifier
    make_data = staticmethod(make_loaders)


if __name__ == "__main__":
    lightning.seed_everything(0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = lightning.Trainer(max_epochs=4, enable_checkpointing=False, **quiet)
    trainer.fit(Classifier(), *make_loaders())
    print(trainer.callback_metrics["accuracy"])
