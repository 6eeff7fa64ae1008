
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  for (const [id, figure] of Object.entries(figures)) {
    const layout = structuredClone(figure.layout);
    Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
      margin: { t: 20, r: 60, b: 50, l: 75 } });
    layout.legend = Object.assign({ orientation: "h", y: 1.12 }, layout.legend);
    for (const axis of ["xaxis", "yaxis", "yaxis2"])
      if (layout[axis]) Object.assign(layout[axis], { gridcolor: line, zerolinecolor: line, automargin: true });
    Plotly.react(id, structuredClone(figure.data), layout, { responsive: true, displayModeBar: false });
  }
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
