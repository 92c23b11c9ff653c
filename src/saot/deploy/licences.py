"""What is known of the licences of published backbones; a network that leaves the house names it."""

LICENCES = {  # beginnings of names -> as model hubs write them
    "filterbank": "apache-2.0",
    "mobile-sam": "apache-2.0",
    "dinov2": "apache-2.0",
    "dinov3": "dinov3-license",
    "vit": "apache-2.0",
    "stable-diffusion": "creativeml-openrail-m",
}


def licence_of(backbone: str) -> str | None:
    """The licence of a backbone's published weights; None where it is not known.

    Example:
        >>> licence_of("dinov2-large"), licence_of("dinov3-small"), licence_of("somebody/network")
        ('apache-2.0', 'dinov3-license', None)
    """
    return next((licence for name, licence in LICENCES.items() if backbone.startswith(name)), None)
