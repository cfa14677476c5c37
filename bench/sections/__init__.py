"""The sections: `run(lab)` measures and returns figures; `tables(figures)` shows them; `plot(axes, figures)` draws."""
