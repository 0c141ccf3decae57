/** In place of `cli-progress` in the browser build: there is no terminal to redraw, so `progressBar` writes lines. */
export default {};
