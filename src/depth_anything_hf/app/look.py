"""Color maps, style and scripts of the page; no font, script or picture is loaded from elsewhere."""

from __future__ import annotations

import numpy as np
from kornia.color import ColorMap

from depth_anything_hf.pictures.visualization import colorize

COLORMAPS = ("inferno", "viridis", "turbo", "cividis", "gray")
_STEPS = np.arange(256)
CSS = """
.gradio-container { max-width: 1480px !important; margin: 0 auto; }
#title h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.02em; }
#title p { margin: 0.2rem 0 0; color: var(--body-text-color-subdued); }
#choose button { width: 100%; padding: 0.45rem; border-radius: var(--button-small-radius); font-weight: 500;
    background: var(--button-secondary-background-fill); box-shadow: var(--button-secondary-shadow); cursor: pointer; }
#choose button:hover, #choose button:focus-visible { background: var(--button-secondary-background-fill-hover); }
#choose p { margin: 0.4rem 0 0; font-size: var(--text-xs); color: var(--body-text-color-subdued); }
#choose p:empty { display: none; }
#compare img, #probe img { max-height: 60vh; object-fit: contain; }
#probe img { cursor: crosshair; }
#status p, #reading p, #status ul { margin: 0; }
#status ul { padding-left: 1.2rem; }
.gradio-container .problem { color: #b3261e; }
.gradio-container.dark .problem, .dark .problem { color: #f2b8b5; }
#readings, #readings .styler { background: var(--block-background-fill); }
#hover, #reading, #readings .html-container { padding: 0.3rem 1rem; }
#choose .html-container { padding: 0; }
#hover output { display: block; min-height: 1.6em; font-variant-numeric: tabular-nums; }
#reading table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
#reading th, #reading td { text-align: left; padding: 0.4rem 1rem 0.4rem 0; vertical-align: top; font-weight: 400; }
#reading tbody th, #reading tbody td { border-top: 1px solid var(--border-color-primary); }
#reading small { color: var(--body-text-color-subdued); }
#reading th small { display: block; padding-left: 1.2em; }
#reading .dot { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50%; margin-right: 0.4em; }
#downloads tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); column-gap: 1rem; }
#downloads tr { display: flex; padding: 0 !important; background: none; border-bottom: 1px solid var(--border-color-primary); }
#downloads td { padding: 0.3rem 0.2rem !important; }
#downloads td.filename { flex: 1; }
#downloads td button { display: none; }  /* nothing is removed here */
"""

SPOKEN = '<div role="status">${value}</div>'  # a screen reader says what changes
HOVER = '<output for="probe compare" aria-live="off">Point at a picture to read its depth.</output>'

# The depth comes with the page as 16-bit codes on a coarse grid: reading it asks no server.
HOVER_SCRIPT = """
const hint = element.querySelector('output').textContent;
let known = null, maps = [];
const decoded = (text) => new Uint16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
function say(text) {
    const line = element.querySelector('output');
    if (line && line.textContent !== text) line.textContent = text;
}
function read(event) {
    const data = props.value;
    if (data !== known) {
        known = data;
        maps = data ? data.maps.map((one) => ({ ...one, codes: decoded(one.codes) })) : [];
    }
    const holder = event.target.closest ? event.target.closest('#probe, #compare') : null;
    const image = holder ? holder.querySelector('img') : null;
    if (!image || !image.naturalWidth || !maps.length) return say(hint);
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const x = (event.clientX - box.left - (box.width - scale * image.naturalWidth) / 2) / (scale * image.naturalWidth);
    const y = (event.clientY - box.top - (box.height - scale * image.naturalHeight) / 2) / (scale * image.naturalHeight);
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return say(hint);
    const [rows, columns] = known.grid, [height, width] = known.size;
    const place = Math.floor(y * rows) * columns + Math.floor(x * columns);
    const texts = maps.map((one) => {
        const code = one.codes[place];
        const value = code ? Number((code * one.scale + one.offset).toPrecision(3)) + (one.unit && ' ' + one.unit) : 'none';
        return `${one.label} ≈ ${value}`;
    });
    say([`row ${Math.floor(y * height)}, column ${Math.floor(x * width)}`, ...texts].join(' · '));
}
document.addEventListener('pointermove', read);
"""

FOLDER = """<input type="file" id="folder" webkitdirectory hidden>
<button type="button">Choose a folder</button>
<p>${value}</p><p class="problem" role="status"></p>"""

# gradio's drop zone takes files; a folder is opened here, and the images in it are handed over as files.
FOLDER_SCRIPT = """
const most = 1000;  // files that gradio takes in one request
const isImage = (file) => /^[^.].*\\.(jpe?g|png|webp|bmp|tiff?)$/i.test(file.name);
const input = element.querySelector('input');
function hand(files, folder) {
    const images = files.filter(isImage).sort((a, b) => a.name.localeCompare(b.name)).slice(0, most);
    element.querySelector('.problem').textContent = images.length ? '' : `There is no image in ${folder}.`;
    if (!images.length) return;
    const transfer = new DataTransfer(), target = document.querySelector('#files input[type=file]');
    images.forEach((file) => transfer.items.add(file));
    target.files = transfer.files;
    target.dispatchEvent(new Event('change', { bubbles: true }));
}
async function open(entry) {
    if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
    const reader = entry.createReader(), found = [];
    for (let part; (part = await new Promise((done, failed) => reader.readEntries(done, failed))).length; ) found.push(...part);
    return (await Promise.all(found.map(open))).flat();
}
element.querySelector('button').addEventListener('click', () => input.click());
input.addEventListener('change', () => {
    hand([...input.files], input.files.length ? input.files[0].webkitRelativePath.split('/')[0] : 'the folder');
    input.value = '';
});
document.addEventListener('drop', async (event) => {
    if (!event.target.closest || !event.target.closest('#files')) return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const folder = entries.find((entry) => entry.isDirectory);
    if (!folder) return;
    event.preventDefault();
    event.stopPropagation();
    hand((await Promise.all(entries.map(open))).flat(), folder.name);
}, true);
"""


def palette(colormap: str) -> np.ndarray:
    """Return the 256 colors of one of `COLORMAPS`, from far to near: `(256, 3)` uint8.

    Example:
        >>> palette("gray")[[0, 255]].tolist(), palette("viridis")[0].tolist()
        ([[0, 0, 0], [255, 255, 255]], [68, 1, 84])
    """
    if colormap not in COLORMAPS:
        raise ValueError(f"colormap is {colormap!r}; it must be one of {COLORMAPS}.")
    if colormap == "inferno":
        return colorize(_STEPS[None] / 255, low=0, high=1)[0]
    if colormap == "gray":
        return np.stack([_STEPS] * 3, axis=1).astype(np.uint8)
    return np.rint(255 * ColorMap(colormap, 256).colors.numpy().T).astype(np.uint8)
