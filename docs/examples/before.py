"""Classify handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy


class Digits:
    def __init__(self, seed, device="cpu"):
        torch.manual_seed(seed)
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images / 16, dtype=torch.float32, device=device)
        self.labels = torch.tensor(labels, device=device)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        ).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def train(self, steps):
        for _ in range(steps):
            batch = torch.randint(1200, (32,))
            loss = cross_entropy(self.net(self.images[batch]), self.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": loss.item()}

    @torch.no_grad()
    def evaluate(self):
        right = self.net(self.images[1200:1500]).argmax(1) == self.labels[1200:1500]
        return right.float().mean().item()

    def state_dict(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


if __name__ == "__main__":
    best = Digits(seed=0)
    for epoch in range(10):
        print(epoch, best.train(steps=50), best.evaluate())
    torch.save(best.state_dict(), "digits.pt")
