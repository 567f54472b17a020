"""The 40 classes of DomainNet that SENTRY (Prabhu et al., 2021, arXiv:2012.11460) chose and LP-FT took over, by their
labels in SENTRY's lists."""

_SENTRY40 = """
airplane ambulance apple backpack banana bathtub bear bed bee bicycle bird book bridge bus cake calculator camera car
cat chair clock cow dog dolphin duck elephant fence fork horse house rabbit scissors strawberry table telephone truck
butterfly sheep drums donut
"""
SENTRY40 = tuple(_SENTRY40.split())
