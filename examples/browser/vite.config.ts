import {defineConfig} from 'vite';

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  publicDir: '../quickstart/model', // puts config.json, model.safetensors and the tokenizer beside the page
  worker: {format: 'es'}, // so that the worker can load parts on demand
  build: {outDir: '../../out/browser', emptyOutDir: true, target: 'es2022', chunkSizeWarningLimit: 4000},
});
