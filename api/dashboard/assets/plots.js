// plotly's own script, loaded when the first plot is drawn. Plots take the page's colours, and again when they change.

let library = null;

function load() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("plotly.min.js", import.meta.url);
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The script that draws plots could not be loaded."));
    document.head.append(script);
  });
  return library;
}

const drawn = new Map();

export async function draw(place, figure) {
  drawn.set(place, figure);
  const plotly = await load();
  const style = getComputedStyle(document.documentElement);
  const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const layout = structuredClone(figure.layout);
  Object.assign(layout, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: getComputedStyle(document.body).fontFamily },
    margin: { t: 24, r: 16, b: 48, l: 56 }, hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
    legend: { orientation: "h", x: 0, ...(place.clientWidth < 480 ? { y: -0.25, yanchor: "top" } : { y: 1.02, yanchor: "bottom" }), ...layout.legend },
  });
  for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) Object.assign(layout[name], { gridcolor: line, zerolinecolor: line, automargin: true });
  await plotly.react(place, structuredClone(figure.data), layout, { responsive: true, displayModeBar: false });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [place, figure] of drawn) draw(place, figure);
});
