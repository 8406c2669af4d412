"""Work units, the coordinator and progress: the only room that knows how Ray schedules."""
