// Pictures: classes blended into a photograph, and stripes where there is no label. Canvases are written, never read.

const STRIPES = 7, STRIPE_WIDTH = 2; // CSS pixels, as in the report
const colours = new Uint32Array(256); // bytes of a canvas; IGNORE_INDEX stays transparent
page.classes.forEach(({ colour }, k) => {
  const rgb = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  colours[k] = new Uint32Array(new Uint8Array([...rgb, 255]).buffer)[0];
});

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const mask = canvasOf(page.size[1], page.size[0]);
const maskPixels = new ImageData(page.size[1], page.size[0]);
const maskWords = new Uint32Array(maskPixels.data.buffer);
const layer = canvasOf(1, 1);

function fit(canvas, aspect) {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.aspectRatio = aspect;
  const width = Math.max(1, Math.round((canvas.clientWidth || 160) * ratio));
  const height = Math.max(1, Math.round(width / aspect));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return ratio;
}

// Paint a photograph; with labels (Uint8Array), blend the colours into it, with an opacity in [0, 1].
function paint(canvas, image, labels, opacity) {
  const ratio = fit(canvas, image.aspect);
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.drawImage(image.photo, 0, 0, width, height);
  if (!labels) return;
  stripe(context, width, height, ratio);
  for (let i = 0; i < numPixels; i++) maskWords[i] = colours[labels[i]];
  mask.getContext("2d").putImageData(maskPixels, 0, 0);
  Object.assign(layer, { width, height });
  const over = layer.getContext("2d");
  over.imageSmoothingEnabled = false;
  over.drawImage(mask, 0, 0, width, height);
  over.globalCompositeOperation = "source-in";
  over.drawImage(image.photo, 0, 0, width, height);
  over.globalCompositeOperation = "source-atop";
  over.globalAlpha = opacity;
  over.drawImage(mask, 0, 0, width, height);
  over.globalAlpha = 1;
  context.drawImage(layer, 0, 0);
}

function stripe(context, width, height, ratio) {
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgb(0 0 0 / .55)";
  context.fillRect(0, 0, width, height);
  context.strokeStyle = "#ebebeb";
  context.lineWidth = (STRIPE_WIDTH * ratio) / Math.SQRT2;
  context.beginPath();
  for (let x = 0; x < width + height; x += STRIPES * ratio) {
    context.moveTo(x, 0);
    context.lineTo(x - height, height);
  }
  context.stroke();
}
