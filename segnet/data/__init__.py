"""Reading, pairing, making, preparing and splitting of CT volumes and their lesion masks."""
