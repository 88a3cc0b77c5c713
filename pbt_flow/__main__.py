"""`python -m pbt_flow`."""

if __name__ == "__main__":
    import sys

    from pbt_flow.cli import main

    sys.exit(main())
