"""Trains the LDM (stage 2): `python main.py --name NAME --base configs/train_ego4d.yaml --train`."""

from egogen.cli import run
from ldm.train import main

if __name__ == "__main__":
    run(main)
