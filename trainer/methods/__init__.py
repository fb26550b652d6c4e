from trainer.methods.choice import make_clip_method, make_method

__all__ = ["make_clip_method", "make_method"]
