"""What one gets for what one pays: defenses at equal accuracy and cost, attacks by the time that they take."""
