"""Fine-tuning: its trainer, what a run is told and notes down."""
