"""The network, its files and the device it runs on."""
