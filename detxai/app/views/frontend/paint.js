// Strokes over a picture, in pixels of the picture. They go to Python as the state "strokes" when one is finished.
export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".paint");
  const picture = root.querySelector("img"), canvas = root.querySelector("canvas");
  const tools = parentElement.querySelector(".tools");
  if (root.dataset.key !== data.key) {
    root.dataset.key = data.key;
    root.strokes = [];
  }
  picture.src = data.picture;
  picture.alt = data.alt;
  canvas.width = data.width;
  canvas.height = data.height;
  const pen = canvas.getContext("2d");

  const draw = () => {
    pen.clearRect(0, 0, data.width, data.height);
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = pen.fillStyle = "rgb(213 94 0 / 55%)";
    for (const stroke of root.strokes) {
      pen.lineWidth = 2 * stroke.radius;
      pen.beginPath();
      stroke.points.forEach(([x, y], i) => (i === 0 ? pen.moveTo(x, y) : pen.lineTo(x, y)));
      if (stroke.points.length === 1) pen.lineTo(stroke.points[0][0] + 0.01, stroke.points[0][1]);
      pen.stroke();
    }
  };
  const send = () => setStateValue("strokes", root.strokes.map((stroke) => ({ ...stroke })));
  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * data.width;
    const y = ((event.clientY - frame.top) / frame.height) * data.height;
    return [Math.round(x * 10) / 10, Math.round(y * 10) / 10];
  };
  let current = null;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    current = { radius: data.radius, points: [place(event)] };
    root.strokes.push(current);
    draw();
  };
  canvas.onpointermove = (event) => {
    if (current === null) return;
    current.points.push(place(event));
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (current === null) return;
    current = null;
    send();
  };
  tools.querySelector(".undo").onclick = () => { root.strokes.pop(); draw(); send(); };
  tools.querySelector(".clear").onclick = () => { root.strokes = []; draw(); send(); };
  draw();
}
