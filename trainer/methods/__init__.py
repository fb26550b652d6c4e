from trainer.methods.choice import make_method

__all__ = ["make_method"]
