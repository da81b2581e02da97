"""What the engine costs, beside a plain pass and beside other programs."""
