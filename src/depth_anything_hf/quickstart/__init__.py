"""The whole method in minutes on a CPU: render, train a teacher, pseudo-label, train a student, score, prove."""
