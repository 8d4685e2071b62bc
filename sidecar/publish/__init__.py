"""What of a forecast goes where: samples due, exposition, future paths."""
