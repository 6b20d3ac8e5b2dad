"""``python -m posttrain``: the command line, for launchers such as torchrun."""

from posttrain.cli.app import main

if __name__ == "__main__":
    main()
