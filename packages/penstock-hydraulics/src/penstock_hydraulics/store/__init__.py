"""What is kept of a plant: its equipment, the results of diagnoses, and the trails of health made of them."""
