# %% [markdown]
# # 01
