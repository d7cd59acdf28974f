"use strict";
(() => {
  const drawing = JSON.parse(document.getElementById("drawing").textContent);
  const places = drawing.plots.map((_, index) => document.getElementById(`plot-${index}`));
  // a finger scrolls the page; the buttons above a plot zoom
  const finger = matchMedia("(pointer: coarse)").matches;
  const steps = [1 / 60, 1 / 12, 1 / 4, 1 / 2, 1, 3, 6, 12, 24, 48, 168, 336, 720];
  const [first, last] = drawing.span;

  const ticks = (range) => {
    const width = (range[1] - range[0]) / Math.max(2, Math.min(12, innerWidth / 90));
    return steps.find((step) => step >= width) ?? undefined;
  };

  const horizontal = (range) => ({
    range, minallowed: first, maxallowed: last, dtick: ticks(range), tick0: 0,
    tickformat: "~r", hoverformat: ".2f", title: { text: "hour of the trace", standoff: 6 },
    gridcolor: "#eee", showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "dot",
    spikecolor: "#999",
  });

  const layout = (axes) => {
    const found = {
      autosize: true, font: { size: 12 }, hovermode: "x unified", showlegend: true,
      dragmode: finger ? false : "zoom", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      margin: { l: 56, r: axes.yaxis2 ? 56 : 14, t: 30, b: 40 },
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: 11 }, traceorder: "normal" },
      hoverlabel: { font: { size: 11 } },
      xaxis: horizontal([first, last]),
      ...axes,
    };
    for (const name of ["yaxis", "yaxis2"]) {
      if (found[name]) {
        found[name] = { gridcolor: "#eee", fixedrange: true, automargin: true, ...found[name] };
      }
    }
    return found;
  };

  const config = {
    responsive: true, displaylogo: false, displayModeBar: finger ? true : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  let following = false;
  const follow = (from, change) => {
    if (following || !Object.keys(change).some((key) => key.startsWith("xaxis."))) return;
    following = true;
    const range = [...from.layout.xaxis.range];
    const shown = { "xaxis.range": range, "xaxis.dtick": ticks(range) };
    Promise.all(places.map((place) => Plotly.relayout(place, shown))).finally(() => {
      following = false;
    });
  };

  drawing.plots.forEach((plot, index) => {
    const traces = plot.traces.map((trace) => ({ ...trace, x: drawing.hours[trace.x] }));
    Plotly.newPlot(places[index], traces, layout(plot.axes), config).then((place) => {
      place.on("plotly_relayout", (change) => follow(place, change));
    });
  });
})();
