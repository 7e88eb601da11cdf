"""The whole method in minutes on a CPU: render scenes, train a teacher, label images, train a student, score, export."""
