"""edgectl: profile a small computer, choose its model, install and talk to edged."""
